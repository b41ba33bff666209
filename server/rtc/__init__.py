"""WebRTC: what is added to aiortc, from packets to frames and back."""
