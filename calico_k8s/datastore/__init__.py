"""Where policy is kept: one key space, two stores behind one door, and the way to follow them."""
