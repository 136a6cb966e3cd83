"""What people do with a trained classifier: on files, on whole splits, and in pictures."""
