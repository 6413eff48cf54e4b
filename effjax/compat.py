"""What differs between the oldest and the newest supported JAX, in one place."""
