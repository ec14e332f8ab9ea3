"""What the user corrects on the picture: objects."""
