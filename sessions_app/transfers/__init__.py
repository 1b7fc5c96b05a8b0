"""Files to and from an instance, through a session of their own."""
