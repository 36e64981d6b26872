"""Container engines of this machine, through the ``docker`` package (extra ``containers``), which loads only when used."""
