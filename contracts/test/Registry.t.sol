// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Vendor} from "./Vendor.sol";
import {RunnerRegistry} from "../RunnerRegistry.sol";
import {Quotes} from "../attestation/Quotes.sol";
import {Tcb} from "../attestation/Tcb.sol";

/// @notice Checks what a registration is worth afterwards: how long it stands, who renews it, and what status it got.
contract RegistryTest is Vendor {
    function setUp() public {
        open();
        postAll();
    }

    function register(uint256 notAfter) private {
        register(notAfter, PROVIDER);
    }

    function register(uint256 notAfter, address provider) private {
        send(registerCall(madeBy(notAfter, provider)));
    }

    function madeBy(uint256 notAfter, address provider) private view returns (Made memory) {
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        (claim.notAfter, claim.provider) = (uint64(notAfter), provider);
        return made(HEADER, body(), claim, RUNNER);
    }

    function active(uint256 finishedAt) private view returns (bool is_) {
        address provider;
        (provider, is_) = registry.providerAt(vm.addr(RUNNER), uint64(finishedAt));
        assertEq(provider, runner().provider);
    }

    function deploy(bool development) external returns (RunnerRegistry) {
        return deployed(development);
    }

    function test_constructor_developmentOnLocalChainsOnly() public {
        vm.chainId(1);
        (bool ok,) = address(this).call(abi.encodeCall(this.deploy, (true)));
        require(!ok, "was made");
        require(!deployed(false).development(), "development");
        vm.chainId(1337);
        require(deployed(true).development(), "not development");
    }

    /// @dev What the escrow did not hear of would not hold there, so it is not done at all.
    function test_policy_aChangeTheEscrowDoesNotFollowIsNotMade() public {
        vm.etch(ESCROW, hex"60006000fd");
        bytes32 workload = workloadOf(body());
        refused(abi.encodeCall(registry.approve, (keccak256("another"))), RunnerRegistry.EscrowDidNotFollow.selector);
        refused(abi.encodeCall(registry.revoke, (workload)), RunnerRegistry.EscrowDidNotFollow.selector);
        refused(abi.encodeCall(registry.kill, ()), RunnerRegistry.EscrowDidNotFollow.selector);
        (uint32 killedAt,,) = registry.standing();
        assertEq(killedAt, 0);
        vm.etch(ESCROW, hex"00");
        send(abi.encodeCall(registry.revoke, (workload)));
    }

    /// @dev Under a vendor's root the statement and its report data are marked otherwise, so that neither passes for the other.
    function test_register_marksOfDevelopmentCountInDevelopmentOnly() public {
        registry = deployed(false);
        postAll();
        refused(registerCall(sound()), RunnerRegistry.ReportDataMismatch.selector);
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        bytes memory b = body();
        bytes32 digest = sha256(
            bytes.concat(
                abi.encodePacked(bytes8("ASY1stmt"), uint64(31337), address(registry)),
                abi.encodePacked(uint256(claim.signerY) % 2 == 0 ? bytes1(0x02) : bytes1(0x03), claim.signerX, claim.hpkeKey),
                abi.encodePacked(blockhash(claim.nonceBlock), claim.gpuEvidence, workloadOf(b), claim.notAfter)
            )
        );
        bind(b, RUNNER, claim.notAfter, digest);
        sealClaim(claim, RUNNER, digest);
        refused(registerCall(Made(quoteOf(bytes.concat(HEADER, b)), claim)), RunnerRegistry.ReportDataMismatch.selector);
        b[543] = "1";
        assertEq(bytes32(bytes4(slice(b, 540, 544))), bytes32(bytes4("ASY1")));
        send(registerCall(Made(quoteOf(bytes.concat(HEADER, b)), claim)));
        require(registry.isActiveNow(vm.addr(RUNNER)), "not active");
    }

    function test_register_keysOfBothParities() public {
        uint256[2] memory seen;
        for (uint256 key = 1; seen[0] == 0 || seen[1] == 0; key++) {
            RunnerRegistry.Claim memory claim = claimOf(key);
            seen[uint256(claim.signerY) % 2]++;
            send(registerCall(made(HEADER, body(), claim, key)));
            require(registry.isActiveNow(vm.addr(key)), "not active");
        }
    }

    function test_register_neverLongerThanADay() public {
        register(NOW + 1 days);
        assertEq(runner().validUntil, NOW + 1 days);
        vm.warp(NOW + 1);
        register(NOW + 3 days);
        assertEq(runner().validUntil, NOW + 1 days + 1);
    }

    function test_register_workloadsApprovedOnly() public {
        bytes32 workload = workloadOf(body());
        registry.revoke(workload);
        refused(
            registerCall(sound()), abi.encodeWithSelector(RunnerRegistry.WorkloadNotApproved.selector, workload)
        );
        registry.approve(workload);
        send(registerCall(sound()));
    }

    /// @dev Whatever an operator could vary has its place in the workload; nothing else has.
    function test_register_eachMeasurementCounts() public {
        for (uint256 i = 0; i < 520; i += 4) {
            bytes memory b = body();
            b[i] ^= 0x02;
            // Module and attributes have their own checks; the version of the module decides the status.
            if (i < 16 || (i >= 64 && i < 128)) continue;
            bytes memory call = registerCall(made(HEADER, b));
            if (i < 128 || (i >= 232 && i < 328)) send(call);
            else refused(call, abi.encodeWithSelector(RunnerRegistry.WorkloadNotApproved.selector, workloadOf(b)));
        }
    }

    function test_renewal_keepsItsBeginningAndMovesItsEnd() public {
        register(NOW + 100);
        vm.warp(NOW + 50);
        register(NOW + 200);
        assertEq(runner().registeredAt, NOW);
        assertEq(runner().validUntil, NOW + 200);
        // An earlier one sent again shortens nothing.
        register(NOW + 150);
        assertEq(runner().validUntil, NOW + 200);
        register(NOW + 200);
        assertEq(runner().registeredAt, NOW);
        // On the last second it still renews, a second later it begins anew.
        vm.warp(NOW + 200);
        register(NOW + 300);
        assertEq(runner().registeredAt, NOW);
        vm.warp(NOW + 301);
        register(NOW + 400);
        assertEq(runner().registeredAt, NOW + 301);
        assertEq(runner().validUntil, NOW + 400);
    }

    /// @dev Neither does one that reaches exactly as far, even though the platform would be judged otherwise by now.
    function test_renewal_asFarAsBeforeChangesNothing() public {
        register(NOW + 100);
        post(modules(), level("5", "2", "13", "SWHardeningNeeded"));
        register(NOW + 100);
        assertEq(runner().status, 0);
        register(NOW + 101);
        assertEq(runner().status, 1);
    }

    function test_renewal_byTheSameProviderOnly() public {
        register(NOW + 100);
        refused(
            registerCall(madeBy(NOW + 200, address(0x1002))),
            abi.encodeWithSelector(RunnerRegistry.ProviderMismatch.selector, PROVIDER)
        );
        // Also long after it lapsed: a key has one provider.
        vm.warp(NOW + 150);
        refused(
            registerCall(madeBy(NOW + 200, address(0x1002))),
            abi.encodeWithSelector(RunnerRegistry.ProviderMismatch.selector, PROVIDER)
        );
    }

    function test_renewal_ofAnotherWorkloadBeginsAnew() public {
        register(NOW + 200);
        bytes memory b = body();
        b[136] ^= 0x01;
        registry.approve(workloadOf(b));
        vm.warp(NOW + 10);
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        claim.notAfter = uint64(NOW + 100);
        send(registerCall(made(HEADER, b, claim, RUNNER)));
        assertEq(runner().workloadIndex, 2);
        assertEq(runner().registeredAt, NOW + 10);
        assertEq(runner().validUntil, NOW + 100);
    }

    function test_renewal_afterTheKillSwitchBeginsAnew() public {
        register(NOW + 500);
        vm.warp(NOW + 10);
        registry.kill();
        require(!active(NOW + 5) && !registry.isActiveNow(vm.addr(RUNNER)), "still active");
        vm.roll(BLOCK + 2);
        vm.warp(NOW + 20);
        RunnerRegistry.Claim memory claim = claimOf(RUNNER);
        (claim.notAfter, claim.nonceBlock) = (uint64(NOW + 300), uint64(BLOCK + 1));
        send(registerCall(made(HEADER, body(), claim, RUNNER)));
        assertEq(runner().registeredAt, NOW + 20);
        assertEq(runner().validUntil, NOW + 300);
        require(registry.isActiveNow(vm.addr(RUNNER)), "not active");
    }

    function test_active_fromItsBeginningLessTheSkewToItsEnd() public {
        require(!registry.isActiveNow(vm.addr(RUNNER)), "before it registered");
        (address nobody, bool never) = registry.providerAt(vm.addr(RUNNER), uint64(NOW));
        require(nobody == address(0) && !never, "before it registered");
        register(NOW + 100);
        require(active(NOW) && active(NOW - 5 minutes) && !active(NOW - 5 minutes - 1), "beginning");
        require(active(NOW + 100) && !active(NOW + 101), "end");
        require(!active(0) && !active(type(uint64).max), "far away");
        vm.warp(NOW + 100);
        require(registry.isActiveNow(vm.addr(RUNNER)), "last second");
        vm.warp(NOW + 101);
        require(!registry.isActiveNow(vm.addr(RUNNER)) && active(NOW + 100), "lapsed");
        bytes32 workload = workloadOf(body());
        registry.revoke(workload);
        require(!active(NOW + 50), "revoked");
        registry.approve(workload);
        require(active(NOW + 50), "approved again");
        assertEq(registry.claimableUntil(vm.addr(RUNNER), NOW + 102), NOW + 101 + 1 days);
        assertEq(registry.claimableUntil(vm.addr(RUNNER), NOW + 100), 0);
    }

    /// @dev A slot nobody ever wrote is no registration, even while work of the year 1970 is asked about.
    function test_active_neverForAKeyNobodyRegistered() public view {
        (address provider, bool is_) = registry.providerAt(address(0x1234), 0);
        require(provider == address(0) && !is_, "active");
    }

    /// @dev A runner that names nobody is paid by nobody, until it names somebody.
    function test_active_neverForWhoNamesNobody() public {
        register(NOW + 100, address(0));
        require(!active(NOW), "active");
        register(NOW + 100);
        require(active(NOW), "not active");
        assertEq(runner().provider, PROVIDER);
    }

    function appraisal(bytes memory head, bytes memory b) private view returns (Quotes.Appraisal memory) {
        return registry.appraise(made(head, b).quote);
    }

    function assertStatus(bytes memory b, uint256 status, uint256 moduleStatus) private view {
        Quotes.Appraisal memory it = b.length == 584
            ? appraisal(HEADER, b)
            : appraisal(bytes.concat(HEADER_5, hex"030088020000"), b);
        assertEq(it.status, status);
        assertEq(it.moduleStatus, moduleStatus);
    }

    function post(string memory modules_, string memory levels_) private {
        send(infoCall(tcbInfo(DATES, "18", modules_, levels_), TCB_SIGNER));
    }

    function test_status_platformAndModuleConverge() public {
        string memory versions_ =
            string.concat(versionLevel("7", "UpToDate"), ",", versionLevel("5", "OutOfDate"), ",", versionLevel("3", "Revoked"));
        post(string.concat('"tdxModuleIdentities":[', module("01", versions_), "],"), levels());
        bytes memory b = body();
        b[0] = 0x07;
        assertStatus(b, 0, 0);
        b[0] = 0x06;
        assertStatus(b, 4, 4);
        b[0] = 0x04;
        assertStatus(b, 6, 6);
        b[0] = 0x02;
        bytes memory call = registerCall(made(HEADER, b));
        refused(call, abi.encodeWithSelector(Tcb.ModuleLevelMissing.selector, 2));
        b[1] = 0x02;
        call = registerCall(made(HEADER, b));
        refused(call, abi.encodeWithSelector(Tcb.ModuleUnknown.selector, 2));
    }

    /// @dev Before version 1 a module has no identity, and all of TEE_TCB_SVN is compared with the levels.
    function test_status_modulesBeforeTheirIdentities() public view {
        bytes memory b = body();
        b[1] = 0;
        assertStatus(b, 0, 255);
        b[2] = 0x01;
        assertStatus(b, 4, 255);
    }

    function test_status_whatIsNotAllowedDoesNotRegister() public {
        post(modules(), level("5", "2", "13", "ConfigurationNeeded"));
        assertStatus(body(), 2, 0);
        refused(registerCall(sound()), abi.encodeWithSelector(RunnerRegistry.StatusNotAllowed.selector, uint8(2)));
        registry.setTcbRules(1 << 2, 17, 14 * 24, true);
        send(registerCall(sound()));
        assertEq(runner().status, 2);
        // None reached at all is not supported, which no policy can allow.
        post(modules(), level("6", "2", "13", "UpToDate"));
        registry.setTcbRules(63, 17, 14 * 24, true);
        refused(registerCall(sound()), abi.encodeWithSelector(RunnerRegistry.StatusNotAllowed.selector, uint8(7)));
    }

    /// @dev A 1.5 body tells the version at launch and the one now; the worse counts, however they differ.
    function test_status_theWorseOfLaunchAndNow() public {
        string memory both = string.concat(
            module("01", string.concat(versionLevel("5", "UpToDate"), ",", versionLevel("3", "OutOfDate"))),
            ",",
            module("03", versionLevel("1", "UpToDate"))
        );
        post(string.concat('"tdxModuleIdentities":[', both, "],"), levels());
        bytes memory b = laterBody();
        assertStatus(b, 0, 0);
        // The module is older now by its minor version alone.
        b[584] = 0x03;
        assertStatus(b, 4, 0);
        // Newer, by its major version: judged by its own levels.
        (b[584], b[585]) = (0x01, 0x03);
        assertStatus(b, 0, 0);
        // The platform is older now.
        (b[584], b[585], b[586]) = (0x05, 0x01, 0x01);
        assertStatus(b, 4, 0);
        // Older at launch, current now: launch counts.
        b = laterBody();
        b[2] = 0x01;
        assertStatus(b, 4, 0);
        (b[2], b[0]) = (0x02, 0x03);
        assertStatus(b, 4, 4);
        // A module that nothing is known of, now.
        b = laterBody();
        b[585] = 0x02;
        bytes memory call = registerCall(made(bytes.concat(HEADER_5, hex"030088020000"), b));
        refused(call, abi.encodeWithSelector(Tcb.ModuleUnknown.selector, 2));
    }

    /// @dev Before version 1 the module's minor version counts for the level too, as it is now.
    function test_status_theWorseOfLaunchAndNowBeforeIdentities() public {
        bytes memory first = bytes(level("5", "2", "13", "UpToDate"));
        bytes memory components = '"tdxtcbcomponents":[{"svn":';
        uint256 at = components.length;
        while (keccak256(slice(first, at - components.length, at)) != keccak256(components)) at++;
        first[at] = "5";
        post(modules(), string.concat(string(first), ",", level("2", "0", "5", "OutOfDate")));
        bytes memory b = laterBody();
        (b[1], b[585]) = (0, 0);
        assertStatus(b, 0, 255);
        b[584] = 0x04;
        assertStatus(b, 4, 255);
    }

    function test_status_theEnclavesVersionCounts() public {
        string memory versions_ = string.concat(versionLevel("5", "UpToDate"), ",", versionLevel("3", "OutOfDate"));
        send(identityCall(qeIdentity(DATES, "18", versions_), TCB_SIGNER));
        Quotes.Appraisal memory it = appraisal(HEADER, body());
        assertEq(it.qeStatus, 4);
        assertEq(it.status, 4);
        send(identityCall(qeIdentity(DATES, "18", versionLevel("4", "UpToDate")), TCB_SIGNER));
        assertEq(appraisal(HEADER, body()).status, 0);
        send(identityCall(qeIdentity(DATES, "18", versionLevel("5", "UpToDate")), TCB_SIGNER));
        refused(registerCall(sound()), abi.encodeWithSelector(Tcb.QeLevelMissing.selector, 4));
    }

    /// @dev What the masks leave out may differ; what they hold may not.
    function test_status_theEnclaveIsTheVendorsOwn() public {
        uint256[10] memory places = [uint256(16), 19, 48, 50, 55, 128, 159, 256, 257, 63];
        for (uint256 i = 0; i < places.length; i++) {
            Made memory it = sound();
            it.quote.qeReport[places[i]] ^= 0x01;
            (it.quote.qeR, it.quote.qeS) = signP256(PCK, it.quote.qeReport);
            if (places[i] == 63) send(registerCall(it));
            else refused(registerCall(it), Tcb.QeIdentityMismatch.selector);
        }
    }
}
