"""The paper's section 4: two settings over lists of clips, any method's films, tables, a study."""
