"""The commands of the project, by what they are about."""
