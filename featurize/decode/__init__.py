"""Files to pixels: decode processes, what they are asked, and the odd corners of file formats."""
