"""The `lipwire` command, a module for each group."""
