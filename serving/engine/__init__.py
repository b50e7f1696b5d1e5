"""What answers requests: the current release, the queue before its encoders, and the threads or processes that hold them."""
