"""The picture of a run: the image, its tiles by status and its boxes, drawn while it runs."""
