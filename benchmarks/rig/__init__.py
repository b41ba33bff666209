"""What benchmarks drive a server with: clients, networks, scenes, markers."""
