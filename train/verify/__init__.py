"""`expkit verify-resume`: is a run that was killed and resumed the same as one that was never stopped?"""
