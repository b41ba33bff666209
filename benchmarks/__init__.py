"""What lipwire costs, measured: every figure with its machine, versions and command."""
