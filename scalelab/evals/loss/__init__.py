"""Loss on named sets of documents."""
