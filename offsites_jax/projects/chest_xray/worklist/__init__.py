"""What reading flagged radiographs first does to a work list."""
