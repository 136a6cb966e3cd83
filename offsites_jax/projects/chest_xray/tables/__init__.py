"""Published label files and own manifests, read into cases."""
