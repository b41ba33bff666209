"""Many servers as one, on Ray Serve; nothing here touches media."""
