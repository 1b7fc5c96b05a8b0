"""The only room that makes AWS clients: who calls, where, with what time-outs, and what an error means."""
