"""The work of every stage: functions from folders to a folder."""
