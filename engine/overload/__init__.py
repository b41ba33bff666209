"""What a session gives up when the devices cannot keep up."""
