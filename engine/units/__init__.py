"""Units: the person's own mouths, kept from the call, chosen by the heard voice and put back."""
