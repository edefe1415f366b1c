"""From records to what the encoders read: windows, and the open frames of each, by the published rules."""
