"""Questions about a snapshot: who reaches whom and why, and what a change would do.  Pure."""
