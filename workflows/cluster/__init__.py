"""Ray clusters: private ones, given ones and jobs on them; and the checks of a machine."""
