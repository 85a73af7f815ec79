"""What `predictbench doctor` looks at: each part of a deployment, and what to do where it is not as it should be."""
