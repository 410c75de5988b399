window.SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#viewer',
  deepLinking: true,
  docExpansion: 'list',
  validatorUrl: null,
  requestInterceptor: (request) => ({ ...request, credentials: 'same-origin' }),
})
