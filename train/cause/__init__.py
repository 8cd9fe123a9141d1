"""Finding the cause: the batch behind a step (`expkit batch`), and where a number stopped being one (`bisect-nan`)."""
