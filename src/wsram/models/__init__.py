"""Networks that attend. Each model's forward pass returns a `wsram.rollout.Rollout`, which every estimator takes."""
