"""The palette of all pictures: the colours of Okabe and Ito, apart for every kind of colour vision."""

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
OCHRE = "#C4B300"  # yellow, dark enough for a thin line on white
