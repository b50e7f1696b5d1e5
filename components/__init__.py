"""One stage's work per file: functions from folders to a folder, on Ray Data and Ray Train."""
