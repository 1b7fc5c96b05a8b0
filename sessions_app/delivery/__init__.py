"""What leaves FleetOps of a session: its transcript and commands for CloudWatch Logs, its finished recording for S3."""
