// Light or dark: as the system says, until the button says otherwise.

export function dressed(changed) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const put = () => {
    const chosen = localStorage.getItem("keelnet-theme") ?? (system.matches ? "dark" : "light");
    document.documentElement.dataset.theme = chosen;
    document.getElementById("theme").textContent = chosen === "dark" ? "Light page" : "Dark page";
    changed();
  };
  document.getElementById("theme").addEventListener("click", () => {
    localStorage.setItem("keelnet-theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark");
    put();
  });
  system.addEventListener("change", put);
  put();
}
