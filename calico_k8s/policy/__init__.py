"""What a policy means: the definition that kernel, command line, lint and web are held to."""
