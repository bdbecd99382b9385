package caller;

import io.grpc.EquivalentAddressGroup;
import io.grpc.NameResolver;
import io.grpc.NameResolverProvider;
import io.grpc.NameResolverRegistry;
import io.grpc.StatusOr;
import java.net.InetSocketAddress;
import java.net.URI;
import java.util.List;
import java.util.stream.Stream;

/** Makes a target of several bridges. In production that is one DNS name. */
final class Several extends NameResolverProvider {
  private final String scheme;
  private final List<EquivalentAddressGroup> addresses;

  private Several(String scheme, List<EquivalentAddressGroup> addresses) {
    this.scheme = scheme;
    this.addresses = addresses;
  }

  static String target(String scheme, String... addresses) {
    var parsed = Stream.of(addresses).map(address -> address.split(":"));
    var groups = parsed.map(it -> new EquivalentAddressGroup(new InetSocketAddress(it[0], Integer.parseInt(it[1]))));
    NameResolverRegistry.getDefaultRegistry().register(new Several(scheme, groups.toList()));
    return scheme + ":///alim-bridge";
  }

  @Override
  public NameResolver newNameResolver(URI target, NameResolver.Args args) {
    return new NameResolver() {
      @Override
      public String getServiceAuthority() {
        return "alim-bridge";
      }

      @Override
      public void start(Listener2 listener) {
        listener.onResult(ResolutionResult.newBuilder().setAddressesOrError(StatusOr.fromValue(addresses)).build());
      }

      @Override
      public void shutdown() {}
    };
  }

  @Override
  public String getDefaultScheme() {
    return scheme;
  }

  @Override
  protected boolean isAvailable() {
    return true;
  }

  @Override
  protected int priority() {
    return 5;
  }
}
