"""Many runs afterwards: parsed, aligned, summarized, and told apart."""
