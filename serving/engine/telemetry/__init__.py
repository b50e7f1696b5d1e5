"""What the endpoint tells of itself: metrics, a dashboard of them, and traces."""
