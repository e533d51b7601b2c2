"""What is wrong, or probably not meant, in a cluster's objects; and how it is told.  Pure."""
