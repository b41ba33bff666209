"""Running a server: logs, memory."""
