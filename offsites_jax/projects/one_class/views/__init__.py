"""What the network is shown: random views, the rows of pretext tasks, and images as they are prepared."""
