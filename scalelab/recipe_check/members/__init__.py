"""Recipe checks, one file each; the table is RECIPE_CHECKS in recipe_check."""
