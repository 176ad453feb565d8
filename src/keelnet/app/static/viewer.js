// The button of the header: it is put on the page by a web socket, some time after this script runs.

import { dressed } from "./theme.js";

const wait = () => (document.getElementById("theme") ? dressed(() => {}) : setTimeout(wait, 50));
wait();
