"""Networks that attend: each gives a `wsram.models.rollout.Rollout`, which every estimator takes."""
