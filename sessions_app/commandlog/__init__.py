"""What was typed, as commands: an index into the recordings, read from the shell's marks and from the screen."""
