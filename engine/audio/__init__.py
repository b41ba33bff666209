"""Speech and source audio: sample stores, mel columns, activity, clocks, the mix."""
