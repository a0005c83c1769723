"""What every part uses: files, the machine, settings and the terminal."""
