"""The commands of the project, by what they start from."""
