"""The command line: the only place that knows click, and where errors become exit codes."""
