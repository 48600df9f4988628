// Shows the contract in Swagger UI, and makes the structure of its page accessible. It renders again on every click,
// so this follows it.

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  showExtensions: true,
  showCommonExtensions: true,
  persistAuthorization: true,
  validatorUrl: null,
});

// The pages can be turned off.
fetch("./", { method: "HEAD" }).then(({ ok }) => { document.querySelector("nav").hidden = !ok; }).catch(() => {});

const page = document.getElementById("swagger-ui");

// Selector, attribute, and its value for an element.
const MISSING = [
  [".information-container", "role", () => "region"],
  [".information-container", "aria-label", () => "About this API"],
  [".scheme-container", "role", () => "region"],
  [".scheme-container", "aria-label", () => "Server and keys"],
  ["#servers", "aria-label", () => "Server"],
  // Levels without a gap below the title, which is the only h1.
  ["h3.opblock-tag, .models > h4", "aria-level", () => "2"],
  [".opblock h4:not(.headers__title)", "aria-level", () => "3"],
  [".body-param__text", "aria-label", () => "Request body"],
  [".parameters select:not([id])", "aria-label", (select) => select.closest("tr")?.dataset.paramName ?? "Content type"],
  ["pre.microlight", "tabindex", () => "0"],
];

function mend() {
  for (const [selector, name, value] of MISSING) {
    for (const element of page.querySelectorAll(`:is(${selector}):not([${name}])`)) element.setAttribute(name, value(element));
  }
  // A link within a button cannot be reached. The button opens the same operation.
  for (const link of page.querySelectorAll(".opblock-summary-control a[href]")) link.removeAttribute("href");
}

new MutationObserver(mend).observe(page, { childList: true, subtree: true, attributes: true, attributeFilter: ["href"] });
mend();
