"""What the commands of the project do; `jobs` lists them."""
