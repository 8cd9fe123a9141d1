"""Many runs in a list: found, judged, filtered and sorted without reading their journals."""
