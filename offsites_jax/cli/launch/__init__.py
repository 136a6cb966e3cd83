"""`offsites launch`: one run on many processes, on this machine, a cluster or a TPU pod."""
