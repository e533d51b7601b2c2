"""From stored items to what this node's kernel should hold: pure and incremental."""
